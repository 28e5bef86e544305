// New labeling exports announce themselves: blob events of the platform's container, in the queue it reads.
// `al azure init` prints the command that deploys this with the names of your settings.

@description('Storage account of the blob store; the queue lies in the same account')
param storageAccountName string

@description('azure.container')
param containerName string = 'active-learning'

@description('Last part of azure.events_queue_url')
param queueName string = 'labeling-exports'

@description('Where events end up that could not be delivered for a day; the platform finds their exports by itself')
param deadLetterContainerName string = 'dead-letters'

@description('A storage account has one system topic: name the one there is, if there is one')
param topicName string = '${storageAccountName}-blobs'

@description('Where the storage account lies: its system topic has to lie there, too')
param location string

resource account 'Microsoft.Storage/storageAccounts@2024-01-01' existing = {
  name: storageAccountName
}

resource blobService 'Microsoft.Storage/storageAccounts/blobServices@2024-01-01' existing = {
  parent: account
  name: 'default'
}

resource deadLetters 'Microsoft.Storage/storageAccounts/blobServices/containers@2024-01-01' = {
  parent: blobService
  name: deadLetterContainerName
}

resource queueService 'Microsoft.Storage/storageAccounts/queueServices@2024-01-01' existing = {
  parent: account
  name: 'default'
}

resource queue 'Microsoft.Storage/storageAccounts/queueServices/queues@2024-01-01' = {
  parent: queueService
  name: queueName
}

resource poison 'Microsoft.Storage/storageAccounts/queueServices/queues@2024-01-01' = {
  parent: queueService
  name: '${queueName}-poison'
}

resource topic 'Microsoft.EventGrid/systemTopics@2025-02-15' = {
  name: topicName
  location: location
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    source: account.id
    topicType: 'Microsoft.Storage.StorageAccounts'
  }
}

// Events are delivered and dead-lettered under the topic's own identity: no key, and the account may refuse keys.
var topicRoles = [
  'c6a89b2d-59bc-44d0-9896-0f6e12d7b80a' // Storage Queue Data Message Sender
  'ba92f5b4-2d11-453d-a403-e96b0029c9fe' // Storage Blob Data Contributor
]

resource topicMay 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for role in topicRoles: {
  name: guid(account.id, topic.id, role)
  scope: account
  properties: {
    principalId: topic.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', role)
  }
}]

resource subscription 'Microsoft.EventGrid/systemTopics/eventSubscriptions@2025-02-15' = {
  parent: topic
  name: 'labeling-exports'
  properties: {
    deliveryWithResourceIdentity: {
      identity: {
        type: 'SystemAssigned'
      }
      destination: {
        endpointType: 'StorageQueue'
        properties: {
          resourceId: account.id
          queueName: queue.name
          queueMessageTimeToLiveInSeconds: -1 // they wait as long as the platform is away
        }
      }
    }
    deadLetterWithResourceIdentity: {
      identity: {
        type: 'SystemAssigned'
      }
      deadLetterDestination: {
        endpointType: 'StorageBlob'
        properties: {
          resourceId: account.id
          blobContainerName: deadLetters.name
        }
      }
    }
    eventDeliverySchema: 'CloudEventSchemaV1_0'
    filter: {
      includedEventTypes: [
        'Microsoft.Storage.BlobCreated'
        'Microsoft.Storage.BlobRenamed' // tools that write beside the place and rename, with a hierarchical namespace
      ]
      subjectBeginsWith: '/blobServices/default/containers/${containerName}/blobs/labeling/exports/'
    }
    retryPolicy: {
      maxDeliveryAttempts: 30
      eventTimeToLiveInMinutes: 1440
    }
  }
  dependsOn: [
    topicMay
  ]
}

output queueUrl string = '${account.properties.primaryEndpoints.queue}${queue.name}'
